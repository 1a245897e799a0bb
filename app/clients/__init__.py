"""HTTP out: one thin client per vendor. A vendor's JSON is spelled here and nowhere else."""
