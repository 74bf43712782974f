"""The HTTP applications: `control` for the Unix socket, `public` for the TCP port. Where they
listen: `daemon.doors`."""
