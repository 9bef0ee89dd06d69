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

A server is a function that gives its command, and a row; a prober a generator that starts it, tells
`say` each verdict ("" when all is well, else its reason), and yields who counts its CPU time.
"""
