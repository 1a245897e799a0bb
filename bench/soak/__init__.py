"""The soak: an hour of steady load with restarts and faults, and a look at what grows."""
