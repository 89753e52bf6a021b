"""What every other package may use: whole files, pictures as bytes, noise, talk between processes."""
