import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Confluent's Parallel Consumer: concurrent handlers that sleep or do nothing. See job.py.
 *
 * <p>The clock runs from the first message to the last, or from the end of the warm-up. The JVM
 * compiles the code during the warm-up.
 */
public class ParallelPeer {
  static final int BUFFER = 16_384; // messages, as the default of an App
  final long messages;
  final long warmUp;
  final long pause; // milliseconds
  final AtomicLong handled = new AtomicLong();
  final AtomicLong total = new AtomicLong();
  final AtomicLong began = new AtomicLong();
  final AtomicLong ended = new AtomicLong();
  final CountDownLatch done = new CountDownLatch(1);

  ParallelPeer(String job) {
    messages = Long.parseLong(field(job, "messages"));
    warmUp = Long.parseLong(field(job, "warm_up"));
    pause = Math.round(Double.parseDouble(field(job, "handler")) * 1000);
  }

  public static void main(String[] args) throws Exception {
    String job = args[0];
    var peer = new ParallelPeer(job);
    var processor = ParallelStreamProcessor.createEosStreamProcessor(options(job));
    processor.subscribe(List.of(field(job, "topic")));
    processor.poll(context -> peer.handle(context.getSingleConsumerRecord().value()));
    peer.done.await();
    peer.report();
    System.exit(0);
  }

  static ParallelConsumerOptions<byte[], byte[]> options(String job) {
    Properties properties = new Properties();
    properties.put("bootstrap.servers", field(job, "bootstrap"));
    properties.put("group.id", "bench-" + UUID.randomUUID());
    properties.put("auto.offset.reset", "earliest");
    properties.put("enable.auto.commit", "false");
    properties.put("isolation.level", "read_committed");
    var bytes = new ByteArrayDeserializer();
    boolean byKey = field(job, "order").equals("key");
    return ParallelConsumerOptions.<byte[], byte[]>builder()
        .consumer(new KafkaConsumer<>(properties, bytes, bytes))
        .ordering(byKey ? ProcessingOrder.KEY : ProcessingOrder.UNORDERED)
        .maxConcurrency(Integer.parseInt(field(job, "tasks")))
        // 0: a small buffer that grows slowly.
        .messageBufferSize(Boolean.parseBoolean(field(job, "tuned")) ? BUFFER : 0)
        .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
        .commitInterval(Duration.ofSeconds(1))
        .build();
  }

  void handle(byte[] value) {
    if (began.get() == 0) {
      began.compareAndSet(0, System.nanoTime());
    }
    total.addAndGet(value[value.length - 2] & 0xff);
    if (pause > 0) {
      sleep(pause);
    }
    long number = handled.incrementAndGet();
    if (number == warmUp) {
      began.set(System.nanoTime());
    } else if (number == messages) {
      ended.set(System.nanoTime());
      done.countDown();
    }
  }

  void report() throws Exception {
    double seconds = (ended.get() - began.get()) / 1e9;
    System.out.printf(
        Locale.ROOT,
        "{\"count\": %d, \"checksum\": %d, \"seconds\": %f, \"per_second\": %f, \"rss\": %f}%n",
        handled.get(),
        total.get(),
        seconds,
        (messages - warmUp) / seconds,
        peak());
  }

  static void sleep(long milliseconds) {
    try {
      Thread.sleep(milliseconds);
    } catch (InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }

  static String field(String job, String name) {
    Matcher found = Pattern.compile("\"" + name + "\": \"?([^\",}]+)").matcher(job);
    if (!found.find()) {
      throw new IllegalArgumentException(name);
    }
    return found.group(1);
  }

  /** The most memory that this process has had, in megabytes. */
  static double peak() throws Exception {
    Path status = Path.of("/proc/self/status");
    if (!Files.exists(status)) {
      return 0;
    }
    String line =
        Files.lines(status).filter(each -> each.startsWith("VmHWM:")).findFirst().orElse("VmHWM: 0");
    return Long.parseLong(line.split("\\s+")[1]) * 1024 / 1e6;
  }
}
