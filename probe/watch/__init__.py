"""`probe watch`: the view document in a terminal. Pure, but for `screen`."""
