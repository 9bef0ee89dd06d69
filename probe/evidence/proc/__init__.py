"""Every bounded read of what belongs to others: files, and processes as /proc shows them."""
