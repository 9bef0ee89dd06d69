"""What can be known about why an application does not accept, gathered before it is restarted.

`audit` looks at who holds a listener and whether any of its threads waits to accept; `baseline`
remembers who did while all was well; `access` says beforehand which of this the pod allows. It
runs in a child process with a deadline, never in the loop that reaches the verdicts.
"""
