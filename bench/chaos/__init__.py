"""The fault report: real processes, a ledger outside, faults drawn from a seed. Nothing of it is in app/."""
