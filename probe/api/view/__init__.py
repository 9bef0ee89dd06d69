"""The board as a person wants to see it: what is wrong, since when, and what happens next. Loaded
when somebody looks.
"""
