// River's own Go client as a contestant of bench/decide.py, which starts it and speaks bench/peers/README.md's lines with it.
//
//	go-peer version                                     River's version
//	go-peer work    --max-workers 100 --settings bench  until "stop"
//	go-peer insert  --way single|many|fast --jobs 1000 --batch 1000 --callers 1
//	go-peer latency --rate 50 --seconds 10
//
// DATABASE_URL names the database, --schema a schema that is migrated already.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

type options struct {
	schema, kind, settings, way                          string
	maxWorkers, connections, jobs, batch, callers, sleep int
	rate, seconds                                        float64
}

type client = river.Client[pgx.Tx]

// Read by JobArgs.Kind, which has no other way to a flag.
var kind = "bench_noop"

type noopArgs struct {
	Num int `json:"num"`
}

func (noopArgs) Kind() string { return kind }

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "go-peer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: version | work | insert | latency, with options")
	}
	given, err := parse(args)
	if err != nil {
		return err
	}
	kind = given.kind
	switch args[0] {
	case "version":
		fmt.Println(version())
		return nil
	case "work":
		return work(ctx, given)
	case "insert":
		return insert(ctx, given)
	case "latency":
		return latency(ctx, given)
	}
	return fmt.Errorf("unknown command %q", args[0])
}

func parse(args []string) (*options, error) {
	given := &options{}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&given.schema, "schema", "", "where River's tables are")
	flags.StringVar(&given.kind, "kind", kind, "of the jobs")
	flags.StringVar(&given.settings, "settings", "bench", "bench: of River's own bench; default: its defaults")
	flags.IntVar(&given.maxWorkers, "max-workers", 2000, "of the default queue")
	flags.IntVar(&given.connections, "connections", 4, "of the pool")
	flags.IntVar(&given.sleep, "sleep-ms", 0, "how long each job sleeps")
	flags.StringVar(&given.way, "way", "single", "to insert: single, many or fast")
	flags.IntVar(&given.jobs, "jobs", 1000, "to insert")
	flags.IntVar(&given.batch, "batch", 1, "jobs in one call")
	flags.IntVar(&given.callers, "callers", 1, "at once")
	flags.Float64Var(&given.rate, "rate", 50, "inserts in a second")
	flags.Float64Var(&given.seconds, "seconds", 10, "of inserts")
	return given, flags.Parse(args[1:])
}

// open makes a client that works the default queue, or, with maxWorkers 0, only inserts.
func open(ctx context.Context, given *options, workers *river.Workers, maxWorkers int) (*client, *pgxpool.Pool, error) {
	poolConfig, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, nil, err
	}
	poolConfig.MaxConns = int32(given.connections)
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, nil, err
	}
	config := &river.Config{
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Schema: given.schema,
	}
	if maxWorkers > 0 {
		config.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: maxWorkers}}
		config.Workers = workers
		if given.settings == "bench" {
			config.FetchCooldown = 2 * time.Millisecond
			config.FetchPollInterval = 20 * time.Millisecond
		}
	}
	made, err := river.NewClient(riverpgxv5.New(pool), config)
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return made, pool, nil
}

var stdin = bufio.NewReader(os.Stdin)

// await says that all is ready and waits for the line that lets it go.
func await() error {
	say(map[string]any{"ready": true})
	_, err := stdin.ReadString('\n')
	return err
}

func say(fields map[string]any) {
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(line, '\n'))
}

// cpu is what this process has used so far, in seconds.
func cpu() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/riverqueue/river" {
				return module.Version
			}
		}
	}
	return "unknown"
}
