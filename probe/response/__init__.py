"""What follows a stall."""
