"""Manifests with our sidecar put into them, and taken out again. Pure: texts in, texts out.

`targets` finds what to watch, `good` has what a good manifest has, `plan` makes one pod's changes
of the two. `splice` makes them in the text and leaves every other byte, `record` keeps what
uninject needs, `edit` is the way in.
"""
