package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

// adapter is River's own client behind the methods of River's conformance contract, generation A: the reference that
// ours is played beside. It has what the scenarios ask of the other side, and believes what it is asked.
type adapter struct {
	ctx    context.Context
	name   string
	logger *slog.Logger
	pool   *pgxpool.Pool
	open   map[string]pgx.Tx
	work   *working // the client that was started

	mutex    sync.Mutex
	barriers map[string]chan struct{}
}

type method func(a *adapter, params json.RawMessage) (any, error)

// refusal is an error of the contract.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

func rejected(text string) error { return &refusal{-32002, text} }
func missing(text string) error  { return &refusal{-32001, text} }

func taking[P any](function func(a *adapter, params P) (any, error)) method {
	return func(a *adapter, encoded json.RawMessage) (any, error) {
		var params P
		if len(encoded) > 0 {
			if err := json.Unmarshal(encoded, &params); err != nil {
				return nil, &refusal{-32602, err.Error()}
			}
		}
		return function(a, params)
	}
}

func serveContract() error {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(os.Getenv("RIVER_CONFORMANCE_DATABASE_URL"))
	if err != nil {
		return err
	}
	name := os.Getenv("RIVER_CONFORMANCE_APPLICATION_NAME")
	config.ConnConfig.RuntimeParams["application_name"] = name
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	handler := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1})
	a := &adapter{
		ctx: ctx, name: name, logger: slog.New(handler), pool: pool,
		open: map[string]pgx.Tx{}, barriers: map[string]chan struct{}{},
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		if err := answers.Encode(a.answer(lines.Bytes())); err != nil {
			return err
		}
	}
	if a.work != nil {
		_ = a.work.client.StopAndCancel(ctx)
	}
	for _, transaction := range a.open {
		_ = transaction.Rollback(ctx)
	}
	pool.Close()
	return nil
}

func (a *adapter) answer(line []byte) map[string]any {
	var asked struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	}
	if err := json.Unmarshal(line, &asked); err != nil {
		return map[string]any{"jsonrpc": "2.0", "id": nil, "error": map[string]any{"code": -32700, "message": err.Error()}}
	}
	result, err := a.do(asked.Method, asked.Params)
	if err != nil {
		told := map[string]any{"code": code(err), "message": err.Error()}
		return map[string]any{"jsonrpc": "2.0", "id": asked.ID, "error": told}
	}
	if result == nil {
		result = map[string]any{}
	}
	return map[string]any{"jsonrpc": "2.0", "id": asked.ID, "result": result}
}

func (a *adapter) do(name string, params json.RawMessage) (result any, err error) {
	found, ok := methods[name]
	if !ok {
		return nil, &refusal{-32601, "no method " + name}
	}
	defer func() {
		if panicked := recover(); panicked != nil {
			err = rejected(fmt.Sprintf("panic: %v", panicked))
		}
	}()
	return found(a, params)
}

func code(err error) int {
	var known *refusal
	var database *pgconn.PgError
	switch {
	case errors.As(err, &known):
		return known.code
	case errors.Is(err, rivertype.ErrNotFound), errors.Is(err, pgx.ErrNoRows):
		return -32001
	case errors.As(err, &database):
		return -32003
	}
	return -32002
}

// client is the one that was started, else one that inserts.
func (a *adapter) client(schema string) (*river.Client[pgx.Tx], error) {
	if a.work != nil {
		return a.work.client, nil
	}
	return river.NewClient(riverpgxv5.New(a.pool), &river.Config{Logger: a.logger, Schema: schema})
}

type handleParams struct {
	Handle string `json:"handle"`
}

func (a *adapter) transaction(handle string) (pgx.Tx, error) {
	if found, ok := a.open[handle]; ok {
		return found, nil
	}
	return nil, missing("no transaction " + handle)
}

func txBegin(a *adapter, params handleParams) (any, error) {
	if _, ok := a.open[params.Handle]; ok {
		return nil, rejected("the transaction is open")
	}
	begun, err := a.pool.Begin(a.ctx)
	if err == nil {
		a.open[params.Handle] = begun
	}
	return nil, err
}

func txEnd(end func(pgx.Tx, context.Context) error) method {
	return taking(func(a *adapter, params handleParams) (any, error) {
		found, err := a.transaction(params.Handle)
		if err != nil {
			return nil, err
		}
		delete(a.open, params.Handle)
		return nil, end(found, a.ctx)
	})
}

func txFail(a *adapter, params handleParams) (any, error) {
	found, err := a.transaction(params.Handle)
	if err != nil {
		return nil, err
	}
	_, err = found.Exec(a.ctx, "SELECT 1 / 0")
	return nil, err
}

func barrierCreate(a *adapter, params nameParams) (any, error) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.barriers[params.Name] != nil {
		return nil, rejected("the barrier exists")
	}
	a.barriers[params.Name] = make(chan struct{})
	return nil, nil
}

func barrierRelease(a *adapter, params nameParams) (any, error) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.barriers[params.Name] == nil {
		return nil, missing("no such barrier")
	}
	close(a.barriers[params.Name])
	delete(a.barriers, params.Name)
	return nil, nil
}

// members of a JSON object, in any language's order; nil where it is not one.
func members(text []byte) any {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var found any
	if decoder.Decode(&found) != nil {
		return nil
	}
	return found
}

func utc(at *time.Time) any {
	if at == nil {
		return nil
	}
	return at.UTC().Format(time.RFC3339Nano)
}
