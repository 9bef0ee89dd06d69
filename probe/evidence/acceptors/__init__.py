"""Who accepts on a listener: its owners, their threads, its queue, and what follows."""
