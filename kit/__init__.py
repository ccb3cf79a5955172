"""The kit records: it runs suites, writes raw events, seals the record and shows what `verify` computes from it."""

__version__ = "0.1.0"
