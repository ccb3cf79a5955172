"""What runs inside the image: suites, engines, models, data. It records events and computes nothing.

Standard library plus what the image has (torch, deepspeed, transformers), Python 3.10 or later; imported as `worker`
from the archive and as `kit.worker` from a checkout.
"""
