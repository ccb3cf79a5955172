"""A client made for measuring: HTTP/1.1 streams over sockets opened and warmed before a round, times taken by the kernel where it can.

loop (sockets and their clock) · wire (framing) · sse (events) · completion (what an event says) · form (events that are alike) ·
stream (a whole answer) · reply (what it said) · shard (one process of the client) · clients (all of them).
Nothing is parsed while a round goes on. Standard library only; Linux.
"""
