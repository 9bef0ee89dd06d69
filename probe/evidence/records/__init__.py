"""The records that a report is made of. Pure data; `plain` turns them into JSON, `typed` back."""
