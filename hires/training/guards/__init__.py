"""What watches over a run: agreement, alarm, stopping, the watchdog and the lock."""
