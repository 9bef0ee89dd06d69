"""The C half of the `socket` module, which is all that a round trip and the kernel's codec need.

Its other half, enumerations and a selector, costs `probe check` as much CPU time as 0.4 starts of
Python.
"""

from _socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AI_NUMERICHOST,
    IPPROTO_TCP,
    MSG_TRUNC,
    SHUT_WR,
    SO_ERROR,
    SO_LINGER,
    SO_RCVTIMEO,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_RAW,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_QUICKACK,
    getaddrinfo,
    htons,
    if_nametoindex,
    inet_ntop,
    inet_pton,
    ntohs,
    socket,
)

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_NETLINK",
    "AI_NUMERICHOST",
    "IPPROTO_TCP",
    "MSG_TRUNC",
    "SHUT_WR",
    "SOCK_CLOEXEC",
    "SOCK_DGRAM",
    "SOCK_NONBLOCK",
    "SOCK_RAW",
    "SOCK_STREAM",
    "SOL_SOCKET",
    "SO_ERROR",
    "SO_LINGER",
    "SO_RCVTIMEO",
    "TCP_QUICKACK",
    "getaddrinfo",
    "htons",
    "if_nametoindex",
    "inet_ntop",
    "inet_pton",
    "ntohs",
    "socket",
]
