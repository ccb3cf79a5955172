"""A client made for measuring: HTTP/1.1 streams over sockets opened and warmed before a round, times taken by the kernel where it can.

wire (framing) · sse (events) · reply (what a completion's events say) · loop (sockets and their clock) · shard (one process of it) ·
clients (all processes of it). Nothing is parsed while a round goes on. Standard library only; Linux.
"""
