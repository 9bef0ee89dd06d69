import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;

/**
 * The incident: one thread accepts for the application, another for the health port. On "die" the
 * first ends with an Error, as a thread does that runs out of memory at the wrong moment; the
 * health port goes on saying 200.
 *
 * Arguments: port, health port, backlog, number of idle worker threads. Commands on stdin, each
 * answered with one line: "die" (once the thread has gone), "held" (the longest time in
 * microseconds that a thread which wants to run every millisecond could not, since the last
 * "held"), "exit".
 */
public final class Incident {
    private static volatile boolean dying;
    private static volatile long longest;

    public static void main(String[] arguments) throws Exception {
        int backlog = Integer.parseInt(arguments[2]);
        ServerSocket application = listen(Integer.parseInt(arguments[0]), backlog);
        ServerSocket health = listen(Integer.parseInt(arguments[1]), 50);
        Thread acceptor = new Thread(() -> serve(application), "app-acceptor");
        // The default handler would print a stack trace among our answers.
        acceptor.setUncaughtExceptionHandler((thread, error) -> { });
        acceptor.start();
        daemon(() -> serve(health), "health-acceptor");
        daemon(Incident::beat, "heartbeat");
        idle(Integer.parseInt(arguments[3]));

        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        System.out.println("ready");
        for (String line; (line = commands.readLine()) != null && !line.equals("exit"); ) {
            if (line.equals("die")) {
                dying = true;
                new Socket(InetAddress.getLoopbackAddress(), application.getLocalPort()).close();
                acceptor.join();
                System.out.println("dead");
            } else if (line.equals("held")) {
                System.out.println(longest / 1000);
                longest = 0;
            }
        }
        System.exit(0);
    }

    private static ServerSocket listen(int port, int backlog) throws IOException {
        return new ServerSocket(port, backlog, InetAddress.getByName("127.0.0.1"));
    }

    private static void serve(ServerSocket listener) {
        while (true) {
            try (Socket connection = listener.accept()) {
                if (dying && Thread.currentThread().getName().equals("app-acceptor")) {
                    throw new OutOfMemoryError("unable to create native thread");
                }
                connection.getInputStream().read(new byte[4096]);
                OutputStream answer = connection.getOutputStream();
                answer.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
                        .getBytes(StandardCharsets.US_ASCII));
            } catch (IOException ignored) {
                // A client that left; the next one is as welcome.
            }
        }
    }

    private static void beat() {
        long last = System.nanoTime();
        while (true) {
            try {
                Thread.sleep(1);
            } catch (InterruptedException end) {
                return;
            }
            long now = System.nanoTime();
            longest = Math.max(longest, now - last - 1_000_000);
            last = now;
        }
    }

    private static void idle(int threads) throws InterruptedException {
        CountDownLatch started = new CountDownLatch(threads);
        CountDownLatch never = new CountDownLatch(1);
        for (int number = 0; number < threads; number++) {
            daemon(() -> wait(12, started, never), "worker-" + number);
        }
        started.await();
    }

    /** Waits some frames deep, as real workers do: an empty stack makes a small dump. */
    private static void wait(int depth, CountDownLatch started, CountDownLatch never) {
        if (depth > 0) {
            wait(depth - 1, started, never);
            return;
        }
        started.countDown();
        try {
            never.await();
        } catch (InterruptedException end) {
            Thread.currentThread().interrupt();
        }
    }

    private static void daemon(Runnable task, String name) {
        Thread thread = new Thread(task, name);
        thread.setDaemon(true);
        thread.start();
    }
}
