"""The exit statuses of every command. Plain numbers: `probe check` is not to pay for an enum."""

OK = 0
"""Healthy, or what was asked for is done."""
FAILED = 1
"""Not healthy, or what was asked for could not be done."""
USAGE = 2
"""Wrong usage or configuration."""
UNKNOWN = 3
"""Could not tell; a fault of ours, too, which says nothing of the application."""
WARNING = 4
"""Healthy, and perhaps not for long: a status between rooms, which STYLES turns into one to exit
with."""
BLOCKED = 70
"""The sidecar's own loop stopped (EX_SOFTWARE of sysexits.h)."""
STALLED = 88
"""The application has stalled, and `--on-stall exit` asks kubelet to restart the whole pod."""
NOT_RUN = 127
"""`wait` could not run its COMMAND, as shells say it."""
BY_SIGNAL = 128
"""Added to the number of the signal that ended it, as shells do."""
INTERRUPTED = BY_SIGNAL + 2
"""By SIGINT."""
BROKEN_PIPE = BY_SIGNAL + 13
"""By SIGPIPE."""

STYLES = {
    "kubelet": {OK: 0, WARNING: 0, FAILED: 1, USAGE: 2, UNKNOWN: 3},
    "docker": {OK: 0, WARNING: 0, FAILED: 1, USAGE: 1, UNKNOWN: 1},
    "consul": {OK: 0, WARNING: 1, FAILED: 2, USAGE: 2, UNKNOWN: 1},
    "nagios": {OK: 0, WARNING: 1, FAILED: 2, USAGE: 3, UNKNOWN: 3},
}
"""What `probe check` exits with, by who has called it. Docker knows 0 and 1 alone (its reference,
HEALTHCHECK), Consul takes 1 for a warning and all above for critical, Nagios has a status for each
(its plugin guidelines). What could not be told is a warning where there is one that takes nothing
out of service."""
