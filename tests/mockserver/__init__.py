"""An OpenAI-compatible server that generates nothing: delays known beforehand and seeded, the truth of each request written down.

`python -m tests.mockserver --help`. One thread, one epoll, no library; every way to misbehave that the client must survive is in `faults`.
"""
