"""The exit statuses of every command. Plain numbers: `probe check` is not to pay for an enum."""

OK = 0
"""Healthy, or what was asked for is done."""
FAILED = 1
"""Not healthy, or what was asked for could not be done."""
USAGE = 2
"""Wrong usage or configuration."""
UNKNOWN = 3
"""Could not tell; a fault of ours, too, which says nothing of the application."""
BLOCKED = 70
"""The sidecar's own loop stopped (EX_SOFTWARE of sysexits.h)."""
NOT_RUN = 127
"""`wait` could not run its COMMAND, as shells say it."""
BY_SIGNAL = 128
"""Added to the number of the signal that ended it, as shells do."""
INTERRUPTED = BY_SIGNAL + 2
"""By SIGINT."""
BROKEN_PIPE = BY_SIGNAL + 13
"""By SIGPIPE."""
