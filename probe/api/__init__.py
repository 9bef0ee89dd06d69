"""The sidecar over HTTP: the server and what it answers, and the client that asks one."""
