"""What else can be known of an application that does not accept; each collector stands alone."""
