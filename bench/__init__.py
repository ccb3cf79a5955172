"""What the kit itself costs. Each module here measures one thing and prints it with what it is compared to."""
