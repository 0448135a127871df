-- One order, whole or not at all, as one function: the best case for PostgreSQL, which is asked once per order.
--
-- SKUs come in descending order and none twice, so that two orders never wait for each other in a circle; the hot one is
-- number 1, so its row is locked last and from there only to the end of the commit.
CREATE TABLE sku (
  id int PRIMARY KEY,
  available bigint NOT NULL CHECK (available >= 0),
  reserved bigint NOT NULL
) WITH (fillfactor = 20); -- room for new versions of a row on its own page, which then need no index entry

CREATE SEQUENCE order_number CACHE 100;

CREATE TABLE placed (
  id bigint PRIMARY KEY,
  account int NOT NULL,
  status smallint NOT NULL,
  total_minor bigint NOT NULL,
  placed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE order_line (
  placed bigint NOT NULL,
  number smallint NOT NULL,
  sku int NOT NULL,
  quantity int NOT NULL,
  price_minor bigint NOT NULL,
  PRIMARY KEY (placed, number)
);

CREATE TABLE idempotency (
  key text PRIMARY KEY,
  placed bigint NOT NULL
);

CREATE TABLE feed (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  placed bigint NOT NULL
);

CREATE FUNCTION place_order(wanted_key text, buyer int, skus int[], quantities int[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  new_order bigint := nextval('order_number');
  n int;
BEGIN
  INSERT INTO idempotency VALUES (wanted_key, new_order); -- a key that was used before is an error, and undoes all
  INSERT INTO placed VALUES (new_order, buyer, 1, 100 * cardinality(skus));
  FOR n IN 1 .. cardinality(skus) LOOP
    INSERT INTO order_line VALUES (new_order, n, skus[n], quantities[n], 100);
  END LOOP;
  INSERT INTO feed (placed) VALUES (new_order);
  FOR n IN 1 .. cardinality(skus) LOOP
    IF n > 1 AND skus[n] >= skus[n - 1] THEN
      RAISE EXCEPTION 'SKUs must descend';
    END IF;
    UPDATE sku SET available = available - quantities[n], reserved = reserved + quantities[n]
      WHERE id = skus[n] AND available >= quantities[n];
    IF NOT FOUND THEN
      RAISE EXCEPTION 'not enough of SKU %', skus[n];
    END IF;
  END LOOP;
  RETURN new_order;
END
$$;
