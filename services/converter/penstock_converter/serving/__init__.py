"""The converter as a service: queue, worker processes, folders."""
