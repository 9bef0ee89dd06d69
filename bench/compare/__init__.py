"""Side by side with what people use: every prober beside every server, in every fault.

`make compare`, or `python -m bench.compare`. A cell is one prober beside one server of its own, in
a network namespace of its own: no prober sees, fills or empties the queue of another. All is well,
the prober says so; the fault is brought about for real, lasts, and is healed. Cells of one server
and fault run at the same time, and several of those.

    servers.py   what is started, and its faults: a row of SERVERS
    faults.py    what each fault is: a row of FAULTS
    probers.py   who is asked: a row of PROBERS
    cells.py     one cell, and many at once
    report.py    the pages and plots out of what was measured

A server is a function that gives its command, and a row, with how its faults are brought about:

    def caddy(_: Path) -> Sequence[str | Path]:
        return [find("caddy"), "respond", "--listen", f":{PORT}", "fine"]

    "caddy": Server(caddy, ("caddy", "version"), {"stopped": stopped}),

A prober is a context in which it runs, and a row. It tells `say` each verdict, "" when all is well,
else its reason, and yields what counts its CPU time:

    @contextmanager
    def curl(running: Running, say: Say) -> Iterator[Cpu]:
        with executed(("curl", "-fsSm1", f"http://127.0.0.1:{PORT}"), say, period=10.0) as cpu:
            yield cpu

    "curl": Prober(curl, "by exec, every 10 s", "curl", ("curl", "--version")),
"""
