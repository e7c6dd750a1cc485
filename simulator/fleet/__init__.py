"""Simulated fleets: engines that exist only as the records that agents would have sent."""
