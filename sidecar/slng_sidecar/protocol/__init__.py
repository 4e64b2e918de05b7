"""What messages mean and what must follow from them: pure code, without sockets, tasks, clocks or logs."""
