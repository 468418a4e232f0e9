"""What every benchmark uses: the machine, memory, and the report."""
