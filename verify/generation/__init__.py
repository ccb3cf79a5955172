"""What text generation needs beside its metrics: events, requests followed through them, gates of correctness, lateness of clients."""
