"""What is resident in a pod: the monitor, the board in the middle, and who listens to it."""
