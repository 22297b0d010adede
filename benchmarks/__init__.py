"""Speed against peers, and what a learned Q promises beside what followed."""
