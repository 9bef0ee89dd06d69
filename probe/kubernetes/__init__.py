"""What the cluster is told and asked for: Events, a condition, quarantine, the floor."""
