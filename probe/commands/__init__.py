"""What each command does; `dispatch` imports one of these when it is asked for."""
