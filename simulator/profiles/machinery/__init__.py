"""What the profiles share: processes, traffic, a pretended device, truth, metrics."""
