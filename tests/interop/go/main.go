// River's own Go client at the other end of a pipe: what tests/interop drives beside river_fast, on one schema.
//
//	interop SCHEMA
//	interop --contract       an adapter of River's conformance contract instead (adapter.go)
//
// DATABASE_URL names the database. Each line on standard input is a call, {"id": 1, "call": "insert", "params": {...}},
// answered by {"id": 1, "result": ...} or {"id": 1, "error": "...", "sort": "not_found"}; answers come as they are
// ready. Lines of what happens, {"event": "working", "job": {...}}, come between them. The end of the input ends the
// program, once its client has stopped.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

type request struct {
	ID     int             `json:"id"`
	Call   string          `json:"call"`
	Params json.RawMessage `json:"params"`
}

type call func(ctx context.Context, p *peer, params json.RawMessage) (any, error)

// with makes a call of a function that takes its params as a value.
func with[P any](function func(ctx context.Context, p *peer, params P) (any, error)) call {
	return func(ctx context.Context, p *peer, encoded json.RawMessage) (any, error) {
		var params P
		if err := json.Unmarshal(encoded, &params); err != nil {
			return nil, err
		}
		return function(ctx, p, params)
	}
}

var calls = map[string]call{
	"migrate":  with(migrate),
	"validate": with(validate),
	"version":  with(version),

	"open":            with(open),
	"start":           with(start),
	"stop":            with(stop),
	"stop_and_cancel": with(stopAndCancel),
	"request_resign":  with(requestResign),
	"release":         with(release),

	"insert":           with(insert),
	"insert_many":      with(insertMany),
	"insert_many_fast": with(insertManyFast),

	"job_cancel":      with(jobCancel),
	"job_delete":      with(jobDelete),
	"job_delete_many": with(jobDeleteMany),
	"job_get":         with(jobGet),
	"job_list":        with(jobList),
	"job_retry":       with(jobRetry),
	"job_update":      with(jobUpdate),

	"queue_get":    with(queueGet),
	"queue_list":   with(queueList),
	"queue_pause":  with(queuePause),
	"queue_resume": with(queueResume),
	"queue_update": with(queueUpdate),

	"ui": with(serveUI),
}

type none struct{}

var output struct {
	sync.Mutex
	encoder *json.Encoder
}

func say(line map[string]any) {
	output.Lock()
	defer output.Unlock()
	if err := output.encoder.Encode(line); err != nil {
		os.Exit(1) // nobody listens any more
	}
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--contract" {
		if err := serveContract(); err != nil {
			fmt.Fprintln(os.Stderr, "interop:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: interop SCHEMA, with DATABASE_URL set")
		os.Exit(2)
	}
	output.encoder = json.NewEncoder(os.Stdout)
	ctx := context.Background()
	p := newPeer(os.Args[1])
	var answers sync.WaitGroup
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var asked request
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, "interop:", err)
			os.Exit(2)
		}
		answers.Go(func() { answer(ctx, p, asked) })
	}
	p.close(ctx)
	answers.Wait()
}

func answer(ctx context.Context, p *peer, asked request) {
	function, ok := calls[asked.Call]
	if !ok {
		say(map[string]any{"id": asked.ID, "error": "unknown call " + asked.Call, "sort": "usage"})
		return
	}
	result, err := safely(ctx, p, function, asked.Params)
	if err != nil {
		say(map[string]any{"id": asked.ID, "error": err.Error(), "sort": sort(err)})
		return
	}
	say(map[string]any{"id": asked.ID, "result": result})
}

// safely makes an error of River's panics: its list params have no other way to refuse.
func safely(ctx context.Context, p *peer, function call, params json.RawMessage) (result any, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	return function(ctx, p, params)
}

// sort names what both sides tell apart.
func sort(err error) string {
	var database *pgconn.PgError
	var unknownKind *river.UnknownJobKindError
	switch {
	case errors.Is(err, rivertype.ErrNotFound):
		return "not_found"
	case errors.Is(err, rivertype.ErrJobRunning):
		return "running"
	case errors.As(err, &unknownKind):
		return "unknown_kind"
	case errors.As(err, &database) && database.Code == "23505":
		return "unique"
	}
	return "other"
}
