"""What ops look at."""
