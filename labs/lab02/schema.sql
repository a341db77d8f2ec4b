-- The one schema of the tasks table (labs 02 to 04). The kit owns it; a worker only uses it.

CREATE TABLE tasks (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    title           text        NOT NULL,
    description     text,
    type            text        NOT NULL DEFAULT 'generic',
    status          text        NOT NULL DEFAULT 'pending'
                                CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    priority        int         NOT NULL DEFAULT 0,
    assigned_worker text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);

-- A worker's poll asks for the oldest pending task. Only the pending rows are in this index, so the
-- poll stays quick however long the history of finished tasks grows.
CREATE INDEX tasks_pending ON tasks (created_at) WHERE status = 'pending';
