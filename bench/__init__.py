"""The figures of the README, measured by hand or by `make bench`, never as timed tests."""
