"""The lab's side of an audit: challenge, receipt, reveal, re-runs, publication. The lab's folder holds its ledger and secrets."""
