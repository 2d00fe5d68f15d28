"""The ground floor: what every room stands on; it imports none of them."""
