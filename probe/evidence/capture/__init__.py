"""The capture: a child process that gathers in steps with deadlines, and the parent that reads it."""
