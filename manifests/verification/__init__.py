"""The second code path: all that `manifests.verify` derives again by other means.

Plain on purpose. Ids and digests meet in dictionaries, not in SQL; perceptual hashes are looked up one by one in lists
by a quarter of their bits, not joined through bands and products; texts are tuples of words in sets and dictionaries,
not hashes in arrays: every stem that shares a pair of words with a text is measured.

What is shared with `manifests.prove` are definitions that would mean nothing if they differed: the perceptual hash
(`fingerprints`), the variants and regions of a picture (`variants`), the agreement of two pictures (`agreement`, here
asked for one pair at a time), how letters are folded, what a word weighs, what a sibling is, and the policy.

Rows of evidence are tuples in the order of `FOUND`.
"""
