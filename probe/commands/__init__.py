"""What each command does; `probe.cli` imports one of these when it is asked for."""
