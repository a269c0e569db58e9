"""Fair comparisons of training runs, and a simulation that shows the mechanism in seconds."""
