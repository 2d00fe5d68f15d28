"""What other trainers read, made of certified samples: rows, formats, and the cards that lie beside them."""
