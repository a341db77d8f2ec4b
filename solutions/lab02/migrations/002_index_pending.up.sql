-- A worker's poll asks for the oldest pending task. Only the pending rows are in this index, so the
-- poll stays quick however long the history of finished tasks grows.
CREATE INDEX tasks_pending ON tasks (created_at) WHERE status = 'pending';
