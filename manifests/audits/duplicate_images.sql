-- No two image ids of one build stand for the same bytes on the same side, train or eval.
--
-- A row is a pair of image ids whose files are byte-identical, each pair once. Of n such ids the first (by name) is
-- paired with each of the others: n - 1 rows, so that a placeholder used ten thousand times does not fill the memory.
-- Equal pictures across train and eval are in exact_image_overlap. An id that occurs in several splits is shown with
-- the first of them by name.
WITH
suspects AS (
    -- Numbers instead of texts keep the large grouping small. Equal bytes have equal numbers; that the bytes are equal,
    -- and not only their numbers, is seen to below.
    SELECT hash(build, role, sha256) AS number
    FROM images
    WHERE sha256 IS NOT NULL
    GROUP BY number
    HAVING min(hash(image_id)) <> max(hash(image_id))
),
pictures AS (
    SELECT build, role, sha256, image_id, min(split) AS split
    FROM images
    WHERE sha256 IS NOT NULL AND hash(build, role, sha256) IN (FROM suspects)
    GROUP BY build, role, sha256, image_id
),
paired AS (
    SELECT build, role, sha256, image_id AS image_id_b, split AS split_b,
           first_value(image_id) OVER same AS image_id_a, first_value(split) OVER same AS split_a
    FROM pictures
    WINDOW same AS (PARTITION BY build, role, sha256 ORDER BY image_id)
)
SELECT build, role, image_id_a, image_id_b, split_a, split_b, sha256
FROM paired
WHERE image_id_a <> image_id_b
ORDER BY build, role, image_id_a, image_id_b
