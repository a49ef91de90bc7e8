"""Networks whose answers are known, and how near each basis comes to them."""
